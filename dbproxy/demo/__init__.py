"""`dbproxy demo`: the story of the product, played on a real database with a real client, every claim checked."""
