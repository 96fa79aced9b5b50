// Linked last of all our code. The program is static, so that the C library's start-up code, which has CPUID in it, would share a page with what is measured,
// and hosts where CPUID cannot be made to trap do not run such a page directly. In a program that is linked dynamically, as most are, it lies elsewhere.
__attribute__((used, aligned(4096))) void end_of_our_code(void)
{
}
