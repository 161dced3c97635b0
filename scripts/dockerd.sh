#!/bin/sh
# Makes sure that a Docker engine answers: scripts/dockerd.sh start | stop | status
#
# start  does nothing where an engine answers already; as root it starts dockerd on /var/run/docker.sock. It installs
#        nothing: scripts/setup.sh does.
# stop   ends the dockerd that this script started, and no other.
set -eu

run_dir=/run/basilica-dockerd
pid_file=$run_dir/dockerd.pid
log_file=$run_dir/dockerd.log
socket=/var/run/docker.sock

say() { printf '%s\n' "dockerd.sh: $*" >&2; }

# The client finds another engine by DOCKER_HOST; one that answers there is good enough.
answers() {
	command -v docker >/dev/null 2>&1 && docker version >/dev/null 2>&1
}

ours() {
	[ -f "$pid_file" ] && pid=$(cat "$pid_file") && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null &&
		[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]
}

# On a cgroup v1 or hybrid system without an init nobody has mounted the controllers.
mount_cgroups() {
	[ -e /sys/fs/cgroup/cgroup.controllers ] && return 0
	[ -d /sys/fs/cgroup/memory ] && return 0
	mountpoint -q /sys/fs/cgroup || mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
	for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
		grep -q "^$c[[:space:]]" /proc/cgroups || continue
		mkdir -p "/sys/fs/cgroup/$c"
		mountpoint -q "/sys/fs/cgroup/$c" || mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" || rmdir "/sys/fs/cgroup/$c"
	done
}

start() {
	if answers; then
		say "an engine answers already"
		return 0
	fi
	PATH=$PATH:/usr/sbin:/sbin
	if ! command -v dockerd >/dev/null 2>&1; then
		say "no engine is installed"
		say "Fix: scripts/setup.sh demo installs it where apt and root are at hand; or apt-get install docker.io"
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		say "no engine answers and only root can start one"
		say "Fix: sudo systemctl start docker, and add yourself to the group docker, or run this script as root"
		exit 1
	fi
	if pgrep -x dockerd >/dev/null 2>&1; then
		# It may be one that another run of this script has just started.
		wait_for_answer && return 0
		say "a dockerd runs but does not answer; a second one beside it would take its bridge away"
		say "Fix: set DOCKER_HOST to its address, or stop it"
		exit 1
	fi
	mkdir -p "$run_dir"
	mount_cgroups
	# No bridge and no packet filter: a stranger's container has no network, and pulls use the host's.
	setsid dockerd --host "unix://$socket" --pidfile "$pid_file" --bridge none --iptables=false --ip6tables=false \
		--live-restore=false >"$log_file" 2>&1 </dev/null &
	if ! wait_for_answer; then
		say "dockerd did not answer within 30 s; the end of its log:"
		tail -n 20 "$log_file" >&2
		exit 1
	fi
	say "started, pid $(cat "$pid_file"), log $log_file"
}

wait_for_answer() {
	i=0
	while [ "$i" -lt 150 ]; do
		answers && return 0
		sleep 0.2
		i=$((i + 1))
	done
	return 1
}

stop() {
	if ! ours; then
		say "no dockerd of this script runs"
		return 0
	fi
	kill "$pid"
	i=0
	while kill -0 "$pid" 2>/dev/null && [ "$i" -lt 150 ]; do
		sleep 0.2
		i=$((i + 1))
	done
	if kill -0 "$pid" 2>/dev/null; then
		say "dockerd, pid $pid, did not end within 30 s"
		exit 1
	fi
	rm -rf "$run_dir"
	say "stopped"
}

case "${1:-start}" in
start) start ;;
stop) stop ;;
status) if answers; then say "an engine answers"; else say "no engine answers"; exit 1; fi ;;
*)
	say "use: dockerd.sh start | stop | status"
	exit 2
	;;
esac
