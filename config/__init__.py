"""Files to frozen settings and policies, and the files that are shipped."""
