"""The site: its policy, data, ledger and the gate through which alone anything leaves."""

import os

# Flower reads these when it is imported: nobody is told that this site exists, whatever the
# environment says.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
