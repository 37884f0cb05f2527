"""What `shiftsearch.flow` is made of."""
