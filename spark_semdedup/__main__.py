"""``python -m spark_semdedup``: the command ``spark-semdedup``."""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
