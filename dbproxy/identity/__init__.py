"""Who is logging in: people, their proofs, TLS material. The only maker of an Authorization."""
