// pause waits for a signal: the smallest thing that a container can run.
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
