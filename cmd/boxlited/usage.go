package main

const usage = `boxlited runs commands in boxes and is driven through files.

Usage:
  boxlited [--mount DIR] [--state DIR] [--shim PATH] [--cgroup-parent PATH]
           [--ids FIRST:COUNT] [--registry-config FILE] [--max-probes N]
           [--metrics-listen ADDR:PORT] [--private] [--log-level LEVEL]
           [--log-format text|json]
  boxlited --version
  boxlited --help

Flags:
  --mount DIR          where the control filesystem goes (default /run/boxlite);
                       created if it is missing, refused if it is not empty
  --state DIR          where boxes are kept (default /var/lib/boxlite); must
                       survive a reboot, and be outside the mount
  --shim PATH          the supervisor's binary (default: boxlite-shim beside
                       boxlited, else on PATH)
  --cgroup-parent PATH cgroup below which boxes get theirs, from the root of the
                       hierarchy (default /boxlite)
  --ids FIRST:COUNT    the host's user and group ids that containers get, 65536
                       each (default 1879048192:268369920); nobody else may have
                       them. A box keeps its own until it is removed
  --max-probes N       health probes of all boxes that are under way at once
                       (default 64)
  --metrics-listen ADDR:PORT
                       serve the file metrics at http://ADDR:PORT/metrics, too
                       (default: off). ADDR is an IP address or localhost;
                       whoever can connect to it can read them
  --private            what boxes say and do is for their owner and group, and
                       not for all users of the host: log, info.json, stats and
                       events of a box, wait/log and wait/event in it, and
                       events, wait/event, metrics and images/NAME/info.json
                       are 0440. What was given a mode by chmod keeps it
  --registry-config FILE
                       credentials for registries, as in the auths of a docker
                       config.json, and insecure-registries, which may be spoken
                       to without TLS (those on loopback may always); read again
                       at each pull
  --log-level LEVEL    error, warn, info or debug (default info)
  --log-format FORMAT  text or json (default text); the log goes to stderr,
                       which is not waited for: what it does not take is dropped
  --version            print the version and exit
  --help               print this and exit

Signals:
  TERM, INT, HUP       wake waiting readers, unmount, exit 0 within 2 s. Boxes
                       live on, but for those with detach: false; the next
                       boxlited on the same state directory finds them. INT and
                       HUP stay ignored if they were when it was started (by
                       nohup, or by & in a script)
  USR1                 write the stacks of all goroutines to stderr

Exit codes:
  0  ended as asked                     4  mount point in use, or mount failed
  1  any other error (not root, …)      5  state directory unusable
  2  wrong command line                 6  shim binary missing
  3  another boxlited uses the state directory
  7  a bug: a request has panicked; the log has the stack, boxes live on, and
     the next boxlited finds them. (A panic elsewhere is Go's own end: exit
     code 2, and the stack on stderr.)

Started with NOTIFY_SOCKET set, boxlited tells the service manager READY=1 when
the mount answers (sd_notify(3), Type=notify).

Examples:
  boxlited                                        # /run/boxlite, as root
  boxlited --mount /tmp/b/mnt --state /tmp/b/state # a private one, for a test

  cd /run/boxlite/boxes
  mkdir web                                       # a box
  echo 'command: [sleep, "60"]' > web/config.yaml # its configuration
  echo start > web/ctl && cat web/wait/running    # runs
  cat web/status web/pid                          # live state
  echo kill > web/ctl && rmdir web                # gone, for certain
`
