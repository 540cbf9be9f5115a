// Sends an echo request to 127.0.0.1 as a user without capabilities can, and says what
// came of it.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct icmphdr echo = {.type = ICMP_ECHO}, reply;
	struct timeval limit = {.tv_sec = 5};
	int s = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);

	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) ||
	    sendto(s, &echo, sizeof echo, 0, (struct sockaddr *)&to, sizeof to) < 0 || recv(s, &reply, sizeof reply, 0) < 0) {
		printf("ping %s\n", strerrorname_np(errno));
		return 1;
	}
	printf("ping %s as %d\n", reply.type == ICMP_ECHOREPLY ? "answered" : "went astray", getuid());
	return 0;
}
