"""How much a run found, for spark-submit; the same as ``spark-semdedup evaluate``.

    spark-submit jobs/evaluate.py \\
        --input s3a://bucket/embeddings \\
        --result s3a://bucket/result \\
        --sample-rows 5000
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["evaluate", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
