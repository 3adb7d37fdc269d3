"""Step 3: find the duplicates among the similarities, for spark-submit; the same as ``spark-semdedup identify``.

    spark-submit jobs/identify.py \\
        --input s3a://bucket/similarities \\
        --output s3a://bucket/duplicates \\
        --eps 0.05
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["identify", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
