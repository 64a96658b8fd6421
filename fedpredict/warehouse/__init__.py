"""Where a party's tables live: one Protocol, and the engines behind it."""
