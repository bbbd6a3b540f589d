"""What is read and written: demonstrations, DROID folders, object masks, question sets."""
