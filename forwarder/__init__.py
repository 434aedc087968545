"""growlytics-forwarder: accepts analytics events at once and forwards them to Growlytics.

The journey of one event that an app posts alone, the usual case. Each name is a module and what to look for in it:

1. `http.protocol:Connection` reads the request; `intake.http:HttpIntake` checks who may post, once for each head.
2. `intake.event_routes:EventRoutes.one` has the event checked against the contract by `growlytics.contract:check`.
3. `intake.acceptance:Acceptor.begin_one` gives it an id and hands it to the buffer, `buffer.base:Buffer.begin_put`. An event
   with a new attribute or an idempotency key goes through `intake.acceptance:Acceptor.accept` instead, as do batches.
4. When the event is committed, the app gets its 200, and the buffer tells delivery.
5. `delivery.worker:Delivery` takes the event, `buffer.base:Buffer.take_ready`, and adds it to the engine's window.
6. `delivery.engine:Engine.start` chooses the next attempt; a worker makes it, `growlytics.client:GrowlyticsClient.post`.
7. `growlytics.outcome:of_answer` says what the answer means, and `delivery.engine:Engine.ended` decides what follows.
8. The event leaves with its fate, `buffer.base:Buffer.begin_ack`, or it is parked and tried again.

Lines and datagrams (`intake.lines:LinesIntake`, `intake.datagram:DatagramIntake`) join at step 3. `app:App` makes and joins
the parts, and `observing.telemetry:Telemetry` counts and logs what happens.
"""

__version__ = "0.1.0"
