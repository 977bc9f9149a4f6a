"""What a session remembers of SQL-level names."""

import time
from dataclasses import replace

from classifiers.classify import classify
from classifiers.composition import compose, remember
from classifiers.effects import Kind, LexingState


def read(text):
    return classify("postgres", text.encode(), LexingState())


def test_execute_of_a_known_name_does_what_was_prepared():
    names = remember(read("PREPARE p AS DELETE FROM t"), {})
    report = compose(read("EXECUTE p"), names)
    assert report.kinds == {Kind.DML_WRITE}
    assert report.writes == ("t",)
    assert {"no_where", "prepare"} <= report.flags


def test_execute_of_an_unknown_name_is_dynamic():
    report = compose(read("EXECUTE p"), {})
    assert Kind.DYNAMIC in report.kinds
    assert "unknown_prepared" in report.flags
    assert not report.is_neutral


def test_execute_of_a_dynamic_statement_stays_dynamic():
    names = remember(read("PREPARE p AS SELECT evil(1)"), {})
    report = compose(read("EXECUTE p"), names)
    assert Kind.DYNAMIC in report.kinds
    assert "unknown_function" in report.flags


def test_prepare_of_a_readable_statement_is_no_doubt_once_composed():
    assert Kind.DYNAMIC in read("PREPARE p AS SELECT 1").kinds
    assert compose(read("PREPARE p AS SELECT 1"), {}).kinds == {Kind.DML_READ}
    assert Kind.DYNAMIC in compose(read("PREPARE p AS SELECT evil(1)"), {}).kinds


def test_other_doubt_in_the_same_message_stays():
    names = remember(read("PREPARE p AS SELECT 1"), {})
    assert Kind.DYNAMIC in compose(read("EXECUTE p; DO $$ $$"), names).kinds


def test_a_forgotten_name_is_unknown_again():
    names = remember(read("PREPARE p AS SELECT 1"), {})
    for text in ("DEALLOCATE p", "DEALLOCATE ALL", "DISCARD ALL"):
        assert remember(read(text), dict(names)) == {}
    assert "unknown_prepared" in compose(read("DEALLOCATE p; EXECUTE p"), names).flags


def test_a_name_prepared_in_the_same_message_is_known():
    assert compose(read("PREPARE p AS SELECT v FROM t; EXECUTE p"), {}).kinds == {Kind.DML_READ}


def test_a_name_prepared_again_in_the_same_message_means_both():
    names = remember(read("PREPARE p AS SELECT v FROM t"), {})
    report = compose(read("PREPARE p AS SELECT 1; EXECUTE p"), names)
    assert report.reads == ("t",)


def test_fetch_reads_what_the_cursor_was_declared_for():
    names = remember(read("DECLARE c CURSOR FOR SELECT * FROM secrets"), {})
    assert compose(read("FETCH ALL FROM c"), names).reads == ("secrets",)
    assert "unknown_prepared" in compose(read("FETCH 1 FROM d"), names).flags
    assert remember(read("CLOSE ALL"), names) == {}


def test_a_session_may_prepare_ten_thousand_names():
    names, report = {}, read("PREPARE p AS SELECT 1")
    inner = report.prepares[0][1]
    began = time.process_time()
    for number in range(10_000):
        names = remember(replace(report, prepares=((f"p{number}", inner),)), names)
    assert len(names) == 10_000
    assert time.process_time() - began < 1
