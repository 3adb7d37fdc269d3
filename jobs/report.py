"""A page about a run, for spark-submit; the same as ``spark-semdedup report``.

    spark-submit jobs/report.py s3a://bucket/result --texts s3a://bucket/documents --text-col text
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["report", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
