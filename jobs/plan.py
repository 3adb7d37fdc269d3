"""What a run would cost, for spark-submit; the same as ``spark-semdedup plan``.

    spark-submit jobs/plan.py \\
        --input s3a://bucket/sample-of-embeddings \\
        --rows 1e9 --gpus 64 --gpu-tflops 500 --network-gbps 100
"""

from spark_semdedup.cli.main import job

job("plan")
