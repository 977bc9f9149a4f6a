"""Reading SQL in processes that can be killed, so that no text can stop, starve or take over the proxy.

pool.py is what the judge asks; queue.py decides whose turn it is; processes.py keeps the processes; child.py is what runs in them;
frames.py is their language. Nothing is imported here: child.py must not drag the proxy into the processes.
Not here: the cache of answers and what a session remembers between statements; those are the judge's.
"""
