/* Looks a name up through the C library that it is linked with, and prints the addresses: `getent ahosts` for musl. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int count, char **arguments)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	char text[INET6_ADDRSTRLEN];
	int error;

	if (count != 2)
		return 2;
	error = getaddrinfo(arguments[1], NULL, &hints, &found);
	if (error) {
		fprintf(stderr, "%s: %s\n", arguments[1], gai_strerror(error));
		return 1;
	}
	for (; found; found = found->ai_next)
		if (!getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST))
			puts(text);
	return 0;
}
