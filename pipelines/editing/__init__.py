"""Edit models as repairers: they change a crop as an instruction says, and their answer is fitted back to the crop."""
