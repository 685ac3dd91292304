"""What makes a run faster and changes nothing that the method speaks of."""
