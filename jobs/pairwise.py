"""Step 2: compare the rows of each cluster, for spark-submit; the same as ``spark-semdedup pairwise``.

    spark-submit jobs/pairwise.py \\
        --input s3a://bucket/clusters \\
        --output s3a://bucket/similarities
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["pairwise", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
