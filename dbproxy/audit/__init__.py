"""The audit ledger: what is recorded, how it is chained, how it is verified."""
