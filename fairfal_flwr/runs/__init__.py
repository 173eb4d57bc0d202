"""What a run leaves behind: the rows of its files, their writer and their reader."""
