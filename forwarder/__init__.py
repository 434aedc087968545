"""growlytics-forwarder: accepts analytics events at once and forwards them to Growlytics.

The journey of one event, from left to right, which is also from the higher layers to the lower ones and back:

- an app posts it over HTTP (`http/` reads the request, `intake/http.py` lets it in, `intake/event_routes.py` answers it),
  or writes it to a socket (`intake/lines.py`, `intake/datagram.py`), alone or among others, which are split without
  changing a byte (`intake/elements.py`, `growlytics/json_array.py`);
- it is checked against the contract (`growlytics/contract.py`), and its attributes' types against those that were first
  (`attribute_types/guard.py`): refused with all that is wrong with it, or,
- unless it repeats one that was accepted (`intake/duplicates.py`), put into the buffer (`buffer/`), all or nothing for one
  request (`intake/acceptance.py`); then the app gets its 200 or 202;
- the pump takes it from the buffer into the window, a worker makes an attempt (`delivery/`), one POST
  (`growlytics/client.py`, `growlytics/connections.py`), and what that came to is an Outcome (`growlytics/outcome.py`);
- by it the event leaves the buffer with its fate (`buffer/fates.py`), or is parked and tried again.

`app.py` makes and joins the parts, `observing/telemetry.py` says what happens, `settings/` what can be set, and `cli/` has
the commands.
"""

__version__ = "0.1.0"
