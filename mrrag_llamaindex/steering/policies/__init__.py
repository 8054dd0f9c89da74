"""What IFA is compared with."""
