"""Train, compress, vet and promote image classifiers; knows nothing of Airflow."""

import warnings

# Google's libraries say at every import that Python 3.11 ends in 2027; Composer and tfmot decide the version, not we.
warnings.filterwarnings("ignore", "You are using a Python version", FutureWarning)
