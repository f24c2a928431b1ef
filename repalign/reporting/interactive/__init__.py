"""The page of a study: tables that sort and filter, charts and RDMs, in one file by itself."""
