"""The site: its policy, data, ledger and the gate through which alone anything leaves."""
