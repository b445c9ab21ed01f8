"""Looking after a store: reports, checks, repair, compaction, collection, merging, export. Reading needs none of it."""
