"""The training image: what it is made of, who builds it, and where it is kept."""
