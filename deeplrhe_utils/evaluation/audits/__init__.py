"""What could fool us: leakage, confounders, published arithmetic; what was found of what was planted."""
