"""`python -m vaswani_cli`, which is what `accelerate launch --module vaswani_cli train ...` starts."""

import sys

from vaswani_cli import main

sys.exit(main())
