"""Step 4: write the rows that are not duplicates, for spark-submit; the same as ``spark-semdedup remove``.

    spark-submit jobs/remove.py \\
        --input s3a://bucket/embeddings \\
        --duplicates s3a://bucket/duplicates \\
        --output s3a://bucket/kept
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["remove", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
