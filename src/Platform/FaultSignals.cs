using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// Runs host code that faults on purpose, with a handler in emitted code for SIGILL, SIGTRAP, SIGBUS, SIGFPE and SIGSEGV. Faults of other
/// threads go on to the handlers found before (the runtime's own), which come back afterwards.
/// </summary>
/// <remarks>
/// The kernel calls <see cref="s_gate"/>, which tells by the signal stack whose fault it is. Gate and stack are never freed or changed: another
/// thread may be stopped inside the gate, and goes on there, long after the call that sent it there is over.
/// </remarks>
public static unsafe class FaultSignals
{
    private const int ActionSize = 152, FlagsOffset = 136, SaSiginfo = 4, SaOnStack = 0x0800_0000, SaNodefer = 0x4000_0000;
    private const int MaskSize = 128, SigSetMask = 2, StackSize = 0x1_0000;

    /// <summary>The gate's code has a page, then come its variables, then the signal stack.</summary>
    private const int VariablesOffset = 0x1000, StackOffset = 0x2000;
    /// <summary>
    /// Variables, in quadwords: first byte of the signal stack, the handler of the call, previous handlers by signal number (0: default, 1: ignore), a default
    /// action.
    /// </summary>
    private const int Stack = 0, Handler = 1, Previous = 2, PreviousLength = 16, DefaultAction = Previous + PreviousLength;

    /// <summary>Handlers belong to the whole process: one call at a time.</summary>
    private static readonly Lock s_lock = new();
    private static readonly LowMemory s_gate = MakeGate();

    private static ReadOnlySpan<int> Signals => [4 /* ILL */, 5 /* TRAP */, 7 /* BUS */, 8 /* FPE */, 11 /* SEGV */];

    /// <summary>
    /// void gate(int signal, siginfo_t *info, ucontext_t *context). Touches neither FS nor the C library, since the faulting code may have changed anything.
    /// </summary>
    private static ReadOnlySpan<byte> GateCode =>
        [
        0x48, 0x89, 0xE0,                               // mov rax, rsp
        0x48, 0x2B, 0x05, 0xF6, 0x0F, 0x00, 0x00,       // sub rax, [Stack]
        0x48, 0x3D, 0x00, 0x00, 0x01, 0x00,             // cmp rax, StackSize
        0x73, 0x06,                                     // jae other
        0xFF, 0x25, 0xF0, 0x0F, 0x00, 0x00,             // jmp [Handler]
        0x89, 0xF8,                                     // other: mov eax, edi
        0x48, 0x8D, 0x0D, 0xEF, 0x0F, 0x00, 0x00,       // lea rcx, [Previous]
        0x48, 0x8B, 0x04, 0xC1,                         // mov rax, [rcx + rax * 8]
        0x48, 0x83, 0xF8, 0x01,                         // cmp rax, 1
        0x76, 0x02,                                     // jbe default
        0xFF, 0xE0,                                     // jmp rax
        // Nobody was there: with the default action back, the fault happens again and ends the process as it should.
        0x48, 0x8D, 0x35, 0x5C, 0x10, 0x00, 0x00,       // default: lea rsi, [DefaultAction]
        0x31, 0xD2,                                     // xor edx, edx
        0x41, 0xBA, 0x08, 0x00, 0x00, 0x00,             // mov r10d, 8
        0xB8, 0x0D, 0x00, 0x00, 0x00,                   // mov eax, 13 (rt_sigaction)
        0x0F, 0x05,                                     // syscall
        0xC3,                                           // ret
    ];

    /// <summary>
    /// Calls <paramref name="entry"/> (System V ABI, no arguments) on this thread while <paramref name="handler"/> (signal, siginfo, ucontext)
    /// gets this thread's signals of that kind on a stack of its own. All other signals of the thread wait. Calls from several threads take turns.
    /// </summary>
    /// <exception cref="Win32Exception">The host refuses a handler.</exception>
    public static void Call(delegate* unmanaged<void> entry, void* handler)
    {
        lock (s_lock) CallLocked(entry, handler);
    }

    private static LowMemory MakeGate()
    {
        var gate = new LowMemory(StackOffset + StackSize);
        GateCode.CopyTo(new Span<byte>(gate.Pointer, VariablesOffset));
        gate.Protect(VariablesOffset, executable: true);
        Variables(gate)[Stack] = (ulong)gate.Pointer + StackOffset;
        return gate;
    }

    private static ulong* Variables(LowMemory gate) => (ulong*)(gate.Pointer + VariablesOffset);

    private static void CallLocked(delegate* unmanaged<void> entry, void* handler)
    {
        ulong* variables = Variables(s_gate);
        byte* previous = stackalloc byte[ActionSize * Signals.Length];
        byte* action = stackalloc byte[ActionSize];
        byte* blocked = stackalloc byte[MaskSize], oldMask = stackalloc byte[MaskSize];
        ulong* stack = stackalloc ulong[3], oldStack = stackalloc ulong[3];
        new Span<byte>(action, ActionSize).Clear();
        *(void**)action = s_gate.Pointer;
        *(int*)(action + FlagsOffset) = SaSiginfo | SaOnStack | SaNodefer;
        new Span<byte>(blocked, MaskSize).Fill(0xFF);
        foreach (int signal in Signals) blocked[(signal - 1) / 8] &= (byte)~(1 << ((signal - 1) % 8));
        stack[0] = variables[Stack];
        stack[1] = 0;
        stack[2] = StackSize;

        _ = Libc.SetSignalMask(SigSetMask, blocked, oldMask);
        _ = Libc.SetSignalStack(stack, oldStack);
        int installed = 0, error = 0;
        try
        {
            // The variables are complete before the first signal can need them.
            variables[Handler] = (ulong)handler;
            for (int n = 0; n < Signals.Length; n++)
            {
                _ = Libc.SetSignalAction(Signals[n], null, previous + n * ActionSize);
                variables[Previous + Signals[n]] = *(ulong*)(previous + n * ActionSize);
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
        }
        if (error != 0) throw new Win32Exception(error);
    }
}
