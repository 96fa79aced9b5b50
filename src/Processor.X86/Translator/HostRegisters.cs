namespace Bunraku.Processor.X86;

/// <summary>
/// Where translated code keeps the guest's general registers. RSP is the host's stack; RCX, R13 and R14 are scratch: RCX because the only conditional branch
/// that needs no flags is JRCXZ. R15 counts retired instructions. The five guest registers that compilers use least stay in memory.
/// </summary>
internal static class HostRegisters
{
    /// <summary>Scratch: RCX is free between instructions and after an address check; R13 and R14 carry addresses.</summary>
    public const Host Scratch = Host.Rcx, Address = Host.R13, Addend = Host.R14;
    /// <summary>Holds <see cref="ProcessorState.Retired"/> as of the block's start.</summary>
    public const Host Retired = Host.R15;
    /// <summary>The guest's RSP and RCX.</summary>
    public const Host StackPointer = Host.R12, Count = Host.R11;

    private static readonly Host[] s_map =
    [
        Host.Rax, Count, Host.Rdx, Host.Rbx, StackPointer, Host.Rbp, Host.Rsi, Host.Rdi, Host.R8, Host.R9, Host.R10,
        Host.None, Host.None, Host.None, Host.None, Host.None,
    ];

    /// <summary>The host register of guest register <paramref name="number"/> (0 to 15), or None when it lives in memory.</summary>
    public static Host Of(int number) => s_map[number];

    /// <summary>Guest registers that have a host register.</summary>
    public static IEnumerable<(int Guest, Host Host)> Mapped
    {
        get
        {
            for (int n = 0; n < s_map.Length; n++)
            {
                if (s_map[n] != Host.None) yield return (n, s_map[n]);
            }
        }
    }

    /// <summary>Whether a host register is a guest's.</summary>
    public static bool IsGuests(Host register) => Array.IndexOf(s_map, register) >= 0;
}
