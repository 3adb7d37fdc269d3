"""What a run would cost, for spark-submit; the same as ``spark-semdedup plan``.

    spark-submit jobs/plan.py \\
        --input s3a://bucket/sample-of-embeddings \\
        --rows 1e9 --gpus 64 --gpu-tflops 500 --network-gbps 100
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["plan", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
