"""Makes the Parquet files that the tests of src/table/parquet.rs read.

    python3 make.py

Made with Python 3.11.7 and pyarrow 26.0.1. Each file has the same 300 rows; i is the row's number:
double = i / 8, float = -i / 4, int32 = -i, int64 = i * 10^9, uint8 = i mod 256, bool = (i mod 3 = 0),
text = ant, bee, cat in turns of 7 rows, gaps = i but missing in 28 rows: where i mod 11 = 0 and i > 0, and in row 299;
time = a timestamp that nobody reads. zstd.parquet has the first ten rows.
"""

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = range(300)
table = pa.table(
    {
        "double": pa.array([i / 8 for i in ROWS], pa.float64()),
        "float": pa.array([-i / 4 for i in ROWS], pa.float32()),
        "int32": pa.array([-i for i in ROWS], pa.int32()),
        "int64": pa.array([i * 10**9 for i in ROWS], pa.int64()),
        "uint8": pa.array([i % 256 for i in ROWS], pa.uint8()),
        "bool": pa.array([i % 3 == 0 for i in ROWS], pa.bool_()),
        "text": pa.array([["ant", "bee", "cat"][i // 7 % 3] for i in ROWS], pa.string()),
        "gaps": pa.array([None if i % 11 == 0 and i > 0 or i == 299 else float(i) for i in ROWS], pa.float64()),
        "time": pa.array([i * 1000 for i in ROWS], pa.timestamp("ms")),
    }
)
required = table.cast(
    pa.schema([field.with_nullable(field.name == "gaps") for field in table.schema])
)

# As pandas and pyarrow write by themselves.
pq.write_table(table, "snappy.parquet")
# Several row groups and pages, version 2 pages, no dictionary, no statistics.
pq.write_table(
    table, "gzip2.parquet", compression="gzip", data_page_version="2.0", row_group_size=128, data_page_size=256,
    use_dictionary=["text"], write_statistics=False,
)
# Required columns, nothing compressed.
pq.write_table(required, "plain.parquet", compression="none", use_dictionary=False, row_group_size=100)
pq.write_table(table.slice(0, 10), "zstd.parquet", compression="zstd")
