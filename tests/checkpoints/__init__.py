"""Small checkpoints made on the spot, and writers for every file format and naming that people have."""
