"""AdaDeep: a compression technique for every layer, by what the user demands."""
