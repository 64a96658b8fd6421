"""Load for a deployment: requests that are sent when they are due, whether or not earlier ones were answered."""
