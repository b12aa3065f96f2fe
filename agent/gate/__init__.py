"""May this job start? The one door to `licensing`, for the node (`NodeGate`) and the hub (`HubLicence`).

    node     a node's lease, and its answer to new jobs; its signature      hub     the site's licence, seats and usage
    wire     how a licence stands, in the words of `agent.api`              refusals  licensing's errors and the API's

Rules kept here: the start of a *new* job is the only thing a licence can hold back; nothing here ever touches a running
one. Refused documents come out as `ApiError` with licensing's stable code; `now` is the wall clock in Unix seconds and
is corrected inside, so a clock that is set back gains nothing.
"""

from agent.gate.hub import MAX_BATCH as MAX_BATCH
from agent.gate.hub import Ask as Ask
from agent.gate.hub import HardwareReader as HardwareReader
from agent.gate.hub import HubLicence as HubLicence
from agent.gate.hub import Mark as Mark
from agent.gate.hub import NoSeat as NoSeat
from agent.gate.hub import collect_hardware as collect_hardware
from agent.gate.node import Admit as Admit
from agent.gate.node import Hold as Hold
from agent.gate.node import NodeGate as NodeGate
from agent.gate.node import NodeSignature as NodeSignature
from agent.gate.node import Signed as Signed
from agent.gate.refusals import as_licence_errors as as_licence_errors
