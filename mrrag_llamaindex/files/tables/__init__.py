"""Tables of rows: csv, tsv, json, JSON lines and Excel workbooks."""
