"""The whole job, for spark-submit; the same as ``spark-semdedup run``.

    spark-submit jobs/semdedup.py \\
        --input s3a://bucket/embeddings \\
        --output s3a://bucket/deduplicated \\
        --eps 0.05
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["run", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
