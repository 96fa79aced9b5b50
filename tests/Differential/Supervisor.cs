using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using G = Bunraku.Differential.GuestLayout;

namespace Bunraku.Differential;

/// <summary>
/// The guest's memory without a program: tables, and handlers that write each exception's frame into a ring and then skip the instruction, give a page back, or
/// lead back to the end of the program's loop.
/// </summary>
internal static class Supervisor
{
    private const ulong Present = 1, Writable = 2, User = 4, LargePage = 0x80, NoExecute = 1ul << 63;

    /// <summary>A whole image of guest memory for <paramref name="mode"/>.</summary>
    public static byte[] BuildImage(ProgramMode mode, bool codeWritable)
    {
        var image = new byte[G.MemorySize];
        BuildPages(image, mode, codeWritable);
        BuildDescriptors(image);
        if (mode.IsLong()) BuildLongHandlers(image);
        else BuildProtectedHandlers(image, mode.IsUser());
        return image;
    }

    public static void Store(byte[] image, uint address, ulong value) => BitConverter.TryWriteBytes(image.AsSpan((int)address), value);

    public static void Store(byte[] image, uint address, uint value) => BitConverter.TryWriteBytes(image.AsSpan((int)address), value);

    private static void BuildPages(byte[] image, ProgramMode mode, bool codeWritable)
    {
        ulong access = Present | Writable | (mode.IsUser() ? User : 0);
        Store(image, G.Pml4, G.LongPdpt | access);
        Store(image, G.LongPdpt, G.Pd | access);
        Store(image, G.PaePdpt, G.Pd | Present);
        Store(image, G.Pd + (G.Program >> 21) * 8, G.ProgramPt | access);
        Store(image, G.Pd + ((G.Program + G.LargeAlias) >> 21) * 8, access | LargePage);
        Store(image, G.Pd + (G.Kernel >> 21) * 8, G.KernelPt | Present | Writable);
        for (uint page = 0; page < G.MemorySize; page += 0x1000) Store(image, G.KernelPt + (page >> 12) * 8, page | Present | Writable);

        Map(G.Code, G.CodeEnd - G.Code, codeWritable ? access : access & ~Writable, alias: access);
        Map(G.Data, G.DataSize, access | NoExecute, alias: access | NoExecute);
        Map(G.ReadOnly, 0x1000, access & ~Writable | NoExecute);
        Map(G.Repaired, G.RepairedSize, access | NoExecute);
        Map(G.Swapped, 0x1000, access | NoExecute);
        Map(G.Stack, G.StackSize, access | NoExecute);
        Map(G.Control, 0x1000, access | NoExecute);
        Store(image, Entry(G.Mmio), G.MmioPhysical | access | NoExecute);
        Store(image, Entry(G.OtherVariant), 0ul);

        void Map(uint start, uint size, ulong bits, ulong alias = 0)
        {
            for (uint page = start; page < start + size; page += 0x1000)
            {
                Store(image, Entry(page), page | bits);
                if (alias != 0) Store(image, Entry(page + G.Alias), page | alias);
            }
        }
    }

    /// <summary>The supervisor's page counts as accessed from the beginning.</summary>
    public static void SetAccessed(byte[] image, uint page)
    {
        foreach (uint entry in (uint[])[G.Pd + (G.Kernel >> 21) * 8, G.KernelPt + (page >> 12) * 8]) image[entry] |= 0x20;
    }

    /// <summary>Physical address of the page-table entry of an address of the program's part.</summary>
    public static uint Entry(uint offset) => G.ProgramPt + (offset >> 12) * 8;

    private static void BuildDescriptors(byte[] image)
    {
        void Descriptor(int selector, ulong value) => Store(image, G.Gdt + (uint)(selector & ~7), value);
        Descriptor(G.Code64, 0x00AF_9B00_0000_FFFF);
        Descriptor(G.Data0, 0x00CF_9300_0000_FFFF);
        Descriptor(G.Code32, 0x00CF_9B00_0000_FFFF);
        Descriptor(G.UserCode32, 0x00CF_FB00_0000_FFFF);
        Descriptor(G.UserData, 0x00CF_F300_0000_FFFF);
        Descriptor(G.UserCode64, 0x00AF_FB00_0000_FFFF);
        const ulong tss = G.Kernel + G.Tss;
        Descriptor(G.TssSelector, (G.TssSize - 1) | (tss & 0xFF_FFFF) << 16 | 0x8Bul << 40 | (tss >> 24 & 0xFF) << 56);
        Descriptor(0x78, 0x0040_F500_0000_0000); // the processor's number, as Linux has it
        Descriptor(G.SysenterCode, 0x00CF_9B00_0000_FFFF);
        Descriptor(G.SysenterCode + 8, 0x00CF_9300_0000_FFFF);
        Descriptor(G.SysenterCode + 16, 0x00CF_FB00_0000_FFFF);
        Descriptor(G.SysenterCode + 24, 0x00CF_F300_0000_FFFF);
        Descriptor(G.BasedData, 0x0040_F300_0000_7FFF | (G.SegmentBase & 0xFF_FFFFul) << 16 | (ulong)(G.SegmentBase >> 24) << 56);

        // The ports of the fuzzer are free at CPL 3, no others.
        Array.Fill(image, (byte)0xFF, (int)(G.Tss + G.TssIoMap), (int)(G.TssSize - G.TssIoMap));
        image[G.Tss + G.TssIoMap + (G.WritePort >> 3)] = 0;
    }

    private static bool HasErrorCode(int vector) => vector is 8 or 10 or 11 or 12 or 13 or 14 or 17;

    private static bool IsProgramsOwn(int vector) => vector is 3 or 4 or G.DoneVector or G.ServiceVector or G.RoundTripVector;

    private static void BuildLongHandlers(byte[] image)
    {
        Store(image, G.Tss + 4, G.Kernel + (ulong)G.IstTop);
        Store(image, G.Tss + 36, G.Kernel + (ulong)G.IstTop);
        Store(image, G.Tss + 0x64, G.TssIoMap << 16);
        var a = new Assembler(64);
        Label[] entries = Entries(a, 64, out Label common);
        Label skip = a.CreateLabel(), recover = a.CreateLabel(), debug = a.CreateLabel(), page = a.CreateLabel(), service = a.CreateLabel(),
            reload = a.CreateLabel(), done = a.CreateLabel();
        Label syscall = a.CreateLabel(), syscall32 = a.CreateLabel();
        const int vector = 24, error = 32, rip = 40, flags = 56, rsp_ = 64;

        a.Label(ref common);
        a.push(rax);
        a.push(rcx);
        a.push(rdx);
        a.mov(edx, __dword_ptr[Variable.LogAt]);
        foreach ((int from, int to) in (ReadOnlySpan<(int, int)>)[(vector, 0), (error, 8), (rip, 16), (flags, 24), (rsp_, 32)])
        {
            a.mov(rax, __qword_ptr[rsp + from]);
            a.mov(__qword_ptr[rdx + to], rax);
        }
        a.mov(rax, cr2);
        a.mov(__qword_ptr[rdx + 40], rax);
        NextRecord(a);
        a.mov(eax, __dword_ptr[rsp + vector]);
        a.cmp(eax, G.ServiceVector);
        a.je(service);
        a.cmp(eax, 32);
        a.jae(done);
        a.cmp(eax, 1);
        a.je(debug);
        a.cmp(eax, 14);
        a.je(page);
        a.sub(eax, 3); // INT3 and INTO have come behind their instruction
        a.cmp(eax, 1);
        a.jbe(done);

        a.Label(ref skip);
        a.mov(rax, __qword_ptr[rsp + rip]);
        a.mov(rcx, rax);
        a.sub(rcx, (int)(G.Program + G.Code));
        a.and(rcx, ~(int)(G.Alias | G.LargeAlias));
        a.cmp(rcx, (int)(G.CodeEnd - G.Code));
        a.jae(recover);
        a.movzx(ecx, __byte_ptr[rcx + (G.Kernel + G.Lengths)]);
        a.test(ecx, ecx);
        a.jz(recover);
        a.add(rax, rcx);
        a.mov(__qword_ptr[rsp + rip], rax);
        a.jmp(done);

        a.Label(ref recover);
        a.inc(__dword_ptr[Variable.Recoveries]);
        a.mov(eax, __dword_ptr[Variable.RecoverRip]);
        a.mov(__qword_ptr[rsp + rip], rax);
        a.mov(eax, __dword_ptr[Variable.StackTop]);
        a.mov(__qword_ptr[rsp + rsp_], rax);
        a.jmp(done);

        a.Label(ref debug);
        a.test(__dword_ptr[Variable.LogCount], 3);
        a.jnz(done);
        a.and(__dword_ptr[rsp + flags], ~0x100);
        a.jmp(done);

        a.Label(ref page);
        a.mov(rdx, cr2);
        a.mov(rcx, rdx);
        a.sub(rcx, (int)(G.Program + G.Repaired));
        a.cmp(rcx, (int)G.RepairedSize);
        a.jae(skip);
        a.test(__dword_ptr[rsp + error], 0x10);
        a.jnz(skip);
        a.shr(ecx, 12);
        a.or(__dword_ptr[rcx * 8 + (G.Kernel + Entry(G.Repaired))], 3);
        a.invlpg(__byte_ptr[rdx]);
        a.inc(__dword_ptr[Variable.Repairs]);
        a.jmp(done);

        a.Label(ref service);
        a.mov(ecx, __dword_ptr[Slot.ServiceIndex]);
        a.and(ecx, 511);
        a.mov(eax, __dword_ptr[Slot.ServiceToggle]);
        a.xor(__dword_ptr[rcx * 8 + (G.Kernel + G.ProgramPt)], eax);
        a.cmp(__dword_ptr[Slot.ServiceReload], 0);
        a.jne(reload);
        a.mov(edx, __dword_ptr[Slot.ServicePage]);
        a.invlpg(__byte_ptr[rdx]);
        a.jmp(done);
        a.Label(ref reload);
        a.mov(rax, cr3);
        a.mov(cr3, rax);

        a.Label(ref done);
        a.pop(rdx);
        a.pop(rcx);
        a.pop(rax);
        a.add(rsp, 16);
        a.iretq();

        // SYSCALL: no stack of its own is needed.
        a.Label(ref syscall);
        a.adc(__dword_ptr[Variable.Calls], 1); // CF is the program's or FMASK's
        a.sysretq();
        a.Label(ref syscall32);
        a.add(__dword_ptr[Variable.Calls], 3);
        a.sysret();

        AssemblerResult result = Place(image, a);
        Store(image, G.Handlers - 16, result.GetLabelRIP(syscall)); // for the initial state
        Store(image, G.Handlers - 8, result.GetLabelRIP(syscall32));
        for (int n = 0; n < 256; n++)
        {
            ulong handler = result.GetLabelRIP(entries[n]);
            ulong type = 0x8E01ul | (IsProgramsOwn(n) ? 3ul << 13 : 0); // IST 1
            Store(image, G.Idt + (uint)n * 16,
                handler & 0xFFFF | (ulong)G.Code64 << 16 | (type & 0xFF00) << 32 | (type & 7) << 32 | (handler >> 16 & 0xFFFF) << 48);
            Store(image, G.Idt + (uint)n * 16 + 8, handler >> 32);
        }
    }

    private static void BuildProtectedHandlers(byte[] image, bool user)
    {
        Store(image, G.Tss + 4, G.Kernel + G.KernelStackTop);
        Store(image, G.Tss + 8, (uint)G.Data0);
        Store(image, G.Tss + 0x64, G.TssIoMap << 16);
        var a = new Assembler(32);
        Label[] entries = Entries(a, 32, out Label common);
        Label skip = a.CreateLabel(), recover = a.CreateLabel(), debug = a.CreateLabel(), page = a.CreateLabel(), service = a.CreateLabel(),
            reload = a.CreateLabel(), done = a.CreateLabel();
        Label sysenter = a.CreateLabel();
        const int vector = 20, error = 24, eip = 28, cs_ = 32, flags = 36, esp_ = 40;

        a.Label(ref common);
        a.push(eax);
        a.push(ecx);
        a.push(edx);
        a.push(ds);
        a.push(es);
        a.mov(eax, (int)G.Data0);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.mov(edx, __dword_ptr[Variable.LogAt]);
        foreach ((int from, int to) in (ReadOnlySpan<(int, int)>)[(vector, 0), (error, 8), (eip, 16), (flags, 24), (cs_, 32)])
        {
            a.mov(eax, __dword_ptr[esp + from]);
            a.mov(__dword_ptr[edx + to], eax);
        }
        a.mov(__dword_ptr[edx + 36], esp);
        a.mov(eax, cr2);
        a.mov(__dword_ptr[edx + 40], eax);
        NextRecord(a);
        a.mov(eax, __dword_ptr[esp + vector]);
        a.cmp(eax, G.ServiceVector);
        a.je(service);
        a.cmp(eax, 32);
        a.jae(done);
        a.cmp(eax, 1);
        a.je(debug);
        a.cmp(eax, 14);
        a.je(page);
        a.sub(eax, 3); // INT3 and INTO have come behind their instruction
        a.cmp(eax, 1);
        a.jbe(done);

        a.Label(ref skip);
        a.mov(eax, __dword_ptr[esp + eip]);
        a.mov(ecx, eax);
        a.sub(ecx, (int)(G.Program + G.Code));
        a.and(ecx, ~(int)(G.Alias | G.LargeAlias));
        a.cmp(ecx, (int)(G.CodeEnd - G.Code));
        a.jae(recover);
        a.movzx(ecx, __byte_ptr[ecx + (G.Kernel + G.Lengths)]);
        a.test(ecx, ecx);
        a.jz(recover);
        a.add(eax, ecx);
        a.mov(__dword_ptr[esp + eip], eax);
        a.jmp(done);

        a.Label(ref recover);
        a.inc(__dword_ptr[Variable.Recoveries]);
        a.mov(eax, __dword_ptr[Variable.RecoverRip]);
        a.mov(__dword_ptr[esp + eip], eax);
        if (user)
        {
            a.mov(eax, __dword_ptr[Variable.StackTop]);
            a.mov(__dword_ptr[esp + esp_], eax);
            a.jmp(done);
        }
        else
        {
            // No stack switch: the frame moves to the program's fresh stack.
            a.mov(ecx, esp);
            a.mov(esp, __dword_ptr[Variable.StackTop]);
            foreach (int at in (ReadOnlySpan<int>)[flags, cs_, eip, error, vector, 16, 12, 8, 4, 0]) a.push(__dword_ptr[ecx + at]);
            a.jmp(done);
        }

        a.Label(ref debug);
        a.test(__dword_ptr[Variable.LogCount], 3);
        a.jnz(done);
        a.and(__dword_ptr[esp + flags], ~0x100);
        a.jmp(done);

        a.Label(ref page);
        a.mov(edx, cr2);
        a.mov(ecx, edx);
        a.sub(ecx, (int)(G.Program + G.Repaired));
        a.cmp(ecx, (int)G.RepairedSize);
        a.jae(skip);
        a.test(__dword_ptr[esp + error], 0x10);
        a.jnz(skip);
        a.shr(ecx, 12);
        a.or(__dword_ptr[ecx * 8 + (G.Kernel + Entry(G.Repaired))], 3);
        a.invlpg(__byte_ptr[edx]);
        a.inc(__dword_ptr[Variable.Repairs]);
        a.jmp(done);

        a.Label(ref service);
        a.mov(ecx, __dword_ptr[Slot.ServiceIndex]);
        a.and(ecx, 511);
        a.mov(eax, __dword_ptr[Slot.ServiceToggle]);
        a.xor(__dword_ptr[ecx * 8 + (G.Kernel + G.ProgramPt)], eax);
        a.cmp(__dword_ptr[Slot.ServiceReload], 0);
        a.jne(reload);
        a.mov(edx, __dword_ptr[Slot.ServicePage]);
        a.invlpg(__byte_ptr[edx]);
        a.jmp(done);
        a.Label(ref reload);
        a.mov(eax, cr3);
        a.mov(cr3, eax);

        a.Label(ref done);
        a.pop(es);
        a.pop(ds);
        a.pop(edx);
        a.pop(ecx);
        a.pop(eax);
        a.add(esp, 8);
        a.iretd();

        // SYSENTER: the program left its return address in EDX and its stack pointer in ECX.
        a.Label(ref sysenter);
        a.inc(__dword_ptr[Variable.Calls]);
        a.sysexit();

        AssemblerResult result = Place(image, a);
        Store(image, G.Handlers - 16, result.GetLabelRIP(sysenter));
        for (int n = 0; n < 256; n++)
        {
            uint handler = (uint)result.GetLabelRIP(entries[n]);
            uint type = 0x8E00u | (IsProgramsOwn(n) ? 3u << 13 : 0);
            Store(image, G.Idt + (uint)n * 8, handler & 0xFFFF | (uint)G.Code32 << 16);
            Store(image, G.Idt + (uint)n * 8 + 4, type | handler & 0xFFFF_0000);
        }
    }

    /// <summary>The entry points: error code or 0, vector, then the common part. The program's end is a HLT.</summary>
    private static Label[] Entries(Assembler a, int bits, out Label common)
    {
        common = a.CreateLabel();
        var entries = new Label[256];
        for (int vector = 0; vector < 256; vector++)
        {
            entries[vector] = a.CreateLabel();
            a.Label(ref entries[vector]);
            if (vector == G.DoneVector)
            {
                a.hlt();
                continue;
            }
            if (!HasErrorCode(vector)) a.push(0);
            a.push(vector);
            a.jmp(common);
        }
        return entries;
    }

    private static void NextRecord(Assembler a)
    {
        a.add(edx, (int)G.LogRecord);
        a.and(edx, (int)(G.LogSize - 1));
        a.or(edx, (int)(G.Kernel + G.Log));
        a.mov(__dword_ptr[Variable.LogAt], edx);
        a.inc(__dword_ptr[Variable.LogCount]);
    }

    private static AssemblerResult Place(byte[] image, Assembler a)
    {
        var bytes = new List<byte>();
        AssemblerResult result = a.Assemble(new ListWriter(bytes), G.Kernel + G.Handlers, BlockEncoderOptions.ReturnNewInstructionOffsets);
        if (bytes.Count > G.HandlersSize) throw new InvalidOperationException("the handlers do not fit");
        bytes.CopyTo(image, (int)G.Handlers);
        return result;
    }

    private sealed class ListWriter(List<byte> bytes) : CodeWriter
    {
        public override void WriteByte(byte value) => bytes.Add(value);
    }
}
