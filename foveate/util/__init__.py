"""What every room needs: files, statistics, run folders, progress, processes."""
