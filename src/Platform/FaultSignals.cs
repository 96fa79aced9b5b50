using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Runs host code that faults on purpose, with a handler in emitted code for SIGILL, SIGTRAP, SIGBUS, SIGFPE and SIGSEGV. The handlers found
/// before (the runtime's own) stay reachable for faults of other code and come back afterwards.
/// </summary>
public static unsafe class FaultSignals
{
    /// <summary>Entries of the table of previous handlers, by signal number.</summary>
    public const int ChainLength = 16;

    private const int ActionSize = 152, FlagsOffset = 136, SaSiginfo = 4, SaOnStack = 0x0800_0000, SaNodefer = 0x4000_0000;
    private const int MaskSize = 128, SigSetMask = 2, StackSize = 0x1_0000;

    /// <summary>Handlers belong to the whole process: one call at a time.</summary>
    private static readonly Lock s_lock = new();

    private static ReadOnlySpan<int> Signals => [4 /* ILL */, 5 /* TRAP */, 7 /* BUS */, 8 /* FPE */, 11 /* SEGV */];

    /// <summary>
    /// Calls <paramref name="entry"/> (System V ABI, no arguments) on this thread while <paramref name="handler"/> (signal, siginfo, ucontext)
    /// gets those signals on a stack of its own. All other signals of the thread wait. Calls from several threads take turns.
    /// </summary>
    /// <param name="chain">Receives the previous handlers (0: default, 1: ignore), for the handler to jump to when a fault is not its own. Any thread may meet it.</param>
    /// <exception cref="Win32Exception">The host refuses a handler.</exception>
    public static void Call(delegate* unmanaged<void> entry, void* handler, Span<ulong> chain)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(chain.Length, ChainLength);
        lock (s_lock) CallLocked(entry, handler, chain);
    }

    private static void CallLocked(delegate* unmanaged<void> entry, void* handler, Span<ulong> chain)
    {
        byte* previous = stackalloc byte[ActionSize * Signals.Length];
        byte* action = stackalloc byte[ActionSize];
        byte* blocked = stackalloc byte[MaskSize], oldMask = stackalloc byte[MaskSize];
        ulong* stack = stackalloc ulong[3], oldStack = stackalloc ulong[3];
        new Span<byte>(action, ActionSize).Clear();
        *(void**)action = handler;
        *(int*)(action + FlagsOffset) = SaSiginfo | SaOnStack | SaNodefer;
        new Span<byte>(blocked, MaskSize).Fill(0xFF);
        foreach (int signal in Signals) blocked[(signal - 1) / 8] &= (byte)~(1 << ((signal - 1) % 8));
        void* memory = NativeMemory.Alloc(StackSize);
        stack[0] = (ulong)memory;
        stack[1] = 0;
        stack[2] = StackSize;

        _ = Libc.SetSignalMask(SigSetMask, blocked, oldMask);
        _ = Libc.SetSignalStack(stack, oldStack);
        int installed = 0, error = 0;
        try
        {
            // The table is complete before the first handler can need it.
            for (int n = 0; n < Signals.Length; n++)
            {
                _ = Libc.SetSignalAction(Signals[n], null, previous + n * ActionSize);
                chain[Signals[n]] = *(ulong*)(previous + n * ActionSize);
            }
            for (; installed < Signals.Length && error == 0; installed++)
            {
                if (Libc.SetSignalAction(Signals[installed], action, null) != 0) error = Marshal.GetLastPInvokeError();
            }
            if (error == 0) entry();
        }
        finally
        {
            for (int n = 0; n < installed; n++) _ = Libc.SetSignalAction(Signals[n], previous + n * ActionSize, null);
            _ = Libc.SetSignalStack(oldStack, null);
            _ = Libc.SetSignalMask(SigSetMask, oldMask, null);
            NativeMemory.Free(memory);
        }
        if (error != 0) throw new Win32Exception(error);
    }
}
