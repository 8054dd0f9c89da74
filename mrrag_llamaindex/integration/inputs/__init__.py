"""What a host hands over, as the method takes it: options, filters, images."""
