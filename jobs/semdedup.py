"""The program for spark-submit; the same as ``spark-semdedup``, with ``run`` as the default command.

    spark-submit jobs/semdedup.py \\
        --input s3a://bucket/embeddings \\
        --output s3a://bucket/deduplicated \\
        --eps 0.05
    spark-submit jobs/semdedup.py plan --input s3a://bucket/embeddings
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    options = sys.argv[1:]
    status = main(options if options and not options[0].startswith("-") else ["run", *options])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
