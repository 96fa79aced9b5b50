using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>One VMCS that goes from one processor to another and back. Intel SDM vol. 3C, "Software Access to the Virtual-Machine Control Structure".</summary>
public sealed class VmxMovedTests
{
    private const uint Rounds = 400; // even: the last one is the second processor's
    private const uint Turn = VmxGuest.Pointers + 64, Count = Turn + 64, Results = Turn + 128, OtherRegion = VmxGuest.Pointers + 56;
    private const uint Resumed = Results, Launched = Results + 8, GuestStack = Results + 16, Wrong = Results + 24;
    private const uint VmcallReason = 18, HostCr4 = 0x6C04, HostRsp = 0x6C14, HostRip = 0x6C16;
    private const uint NotLaunched = 5, InvalidHostState = 8; // vol. 3C, "VM-Instruction Error Numbers"

    /// <summary>
    /// "The VMCLEAR instruction ... should be executed before making the VMCS active on another": the guest goes on there, with what it has counted in RSP; the
    /// launch state is clear; and what the other one has written is checked anew, although this one had found it right.
    /// </summary>
    [Theory, Engines]
    public void A_VMCS_moves_between_processors(string engine)
    {
        using var v = new VmxGuest();
        Guest g = v.G;
        v.Guest(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(__dword_ptr[Count]);
            a.lea(rsp, __[rsp - 8]);
            a.vmcall();
            a.jmp(loop);
        });
        g.Code(a =>
        {
            Label run = a.CreateLabel(), wait = a.CreateLabel(), done = a.CreateLabel(), other = a.CreateLabel(),
                wrong = a.CreateLabel(), end = a.CreateLabel();
            g.Mark(a, "first");
            VmxGuest.BecomeHypervisor(a, VmxGuest.Pointers);
            a.vmclear(__qword_ptr[VmxGuest.Pointers + 8]);
            a.vmptrld(__qword_ptr[VmxGuest.Pointers + 8]);
            VmxGuest.WriteFields(a, run);

            g.Mark(a, "second");
            VmxGuest.BecomeHypervisor(a, OtherRegion);
            a.jmp(wait);

            a.Label(ref run);
            a.mov(eax, HostRsp);
            a.vmwrite(rax, rsp);
            a.vmlaunch();
            a.jmp(wrong);
            g.Mark(a, "exit"); // EDI is still this processor's number: the guest has left it alone
            a.mov(eax, VmField.Reason);
            a.vmread(rbx, rax);
            a.cmp(ebx, VmcallReason);
            a.jne(wrong);
            a.mov(eax, VmField.GuestRip);
            a.vmread(rbx, rax);
            a.add(rbx, 3);
            a.vmwrite(rax, rbx);
            a.vmclear(__qword_ptr[VmxGuest.Pointers + 8]);
            GiveTurn(a);
            a.Label(ref wait);
            a.pause();
            a.cmp(__dword_ptr[Turn], edi);
            a.jne(wait);
            a.vmptrld(__qword_ptr[VmxGuest.Pointers + 8]);
            a.cmp(__dword_ptr[Count], Rounds);
            a.jb(run);
            a.test(edi, edi);
            a.jnz(other);

            a.vmresume(); // was launched and cleared
            StoreError(a, Resumed);
            a.mov(eax, VmField.GuestRsp);
            a.vmread(__qword_ptr[GuestStack], rax);
            a.mov(eax, HostCr4);
            a.xor(ebx, ebx);
            a.vmwrite(rax, rbx);
            a.vmclear(__qword_ptr[VmxGuest.Pointers + 8]);
            GiveTurn(a);
            a.jmp(end);

            a.Label(ref other);
            a.vmlaunch();
            StoreError(a, Launched);
            a.jmp(end);

            a.Label(ref wrong);
            a.mov(__dword_ptr[Wrong], 1);
            a.Label(ref end);
            SmpGuest.End(a);
        });
        v.Fields[HostRip] = g["exit"];
        v.PlaceFields();
        g.Write<ulong>(OtherRegion, VmxGuest.OtherVmcs); // its revision is there

        using SmpGuest run = SmpGuest.Run(engine, g, "first", "second");
        Assert.Equal((0u, Rounds), (run.Read<uint>(Wrong), run.Read<uint>(Count)));
        Assert.Equal(VmxGuest.GuestStackTop - 8 * Rounds, run.Read<ulong>(GuestStack));
        Assert.Equal((NotLaunched, InvalidHostState), (run.Read<uint>(Resumed), run.Read<uint>(Launched)));
    }

    private static void GiveTurn(Assembler a)
    {
        a.mov(eax, edi);
        a.xor(eax, 1);
        a.mov(__dword_ptr[Turn], eax);
    }

    private static void StoreError(Assembler a, uint to)
    {
        a.mov(eax, VmField.Error);
        a.vmread(__qword_ptr[to], rax);
    }
}
