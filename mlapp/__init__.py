"""Train, compress, vet and promote image classifiers; knows nothing of Airflow."""
