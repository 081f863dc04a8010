"""AGD: small generators, searched under a budget and distilled from a large one."""
