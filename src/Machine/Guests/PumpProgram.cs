using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Machine;

/// <summary>
/// A program for Linux that copies its standard input to its standard output, whatever comes at once, up to the end of either. Then it closes its output,
/// writes a line end to its standard error, and stays: nobody who waits for the last byte waits for the end of a process as well.
/// </summary>
internal static class PumpProgram
{
    private const int Buffer = 1 << 16;

    /// <summary>The executable file.</summary>
    public static byte[] Build()
    {
        var c = new Assembler(64);
        Label again = c.CreateLabel("again"), write = c.CreateLabel("write"), end = c.CreateLabel("end"), stay = c.CreateLabel("stay"),
            line = c.CreateLabel("line");
        c.sub(rsp, Buffer);
        c.Label(ref again);
        c.xor(edi, edi);
        c.mov(rsi, rsp);
        c.mov(edx, Buffer);
        c.Call(SmallProgram.Read);
        c.test(rax, rax);
        c.jle(end);
        c.mov(rbx, rax); // what is left of it
        c.mov(rsi, rsp);
        c.Label(ref write);
        c.mov(edi, 1);
        c.mov(rdx, rbx);
        c.Call(SmallProgram.Write);
        c.test(rax, rax);
        c.jle(end);
        c.add(rsi, rax);
        c.sub(rbx, rax);
        c.jne(write);
        c.jmp(again);
        c.Label(ref end);
        c.mov(edi, 1);
        c.Call(SmallProgram.Close);
        c.mov(edi, 2);
        c.lea(rsi, __[line]);
        c.mov(edx, 1);
        c.Call(SmallProgram.Write);
        c.Label(ref stay);
        c.Call(SmallProgram.Pause);
        c.jmp(stay);
        c.Label(ref line);
        c.db((byte)'\n');
        return SmallProgram.Link(c);
    }
}
