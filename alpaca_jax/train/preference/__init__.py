"""Learning from preferences: what DPO, SimPO, ORPO, KTO and a reward model need around the step."""
