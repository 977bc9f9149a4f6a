"""What must outlast a restart, besides the audit ledger. Owned by the control process."""
